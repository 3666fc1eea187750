"""A local page and an HTTP interface for bundles: `lit-od serve`.

The way of a request:

    connection.py   bytes from the socket; a client that dawdles is answered 408 and left, one too many 503
    gate.py         who may ask: hosts and origins; an answer that arrives though the body was not wanted
    intake.py       the body, within its limits of size, time and memory
    protocol.py     the Open Inference Protocol: a request to images and wanted outputs, verdicts to an answer
    engine.py       a bounded queue before one worker a core; small requests go through a graph together
    models.py       a bundle that answers: verdicts, heat maps, nearest normal images
    app.py          which address does what; page.html is the page
    server.py       listen, say where, stop when told to

Scores are those of `lit-od score`: the same scorer computes them.
"""
