"""A local page and an HTTP interface for bundles: `lit-od serve`.

Modules in the order of a request's way:

    connection.py     bytes from the socket; a client that is too slow is answered 408, one too many 503
    gate.py           hosts and origins that may ask; headers of every answer; refusals that reach slow senders
    intake.py         the body and the answer, within limits of size, time and memory
    protocol.py       the Open Inference Protocol: a request to images and wanted outputs, results to an answer
    tensors.py        the protocol's tensors, in JSON and in binary form
    sent_images.py    the images of a request, which take turns at memory while they are decoded
    work_queue.py     a bounded queue before one worker a core; small requests go through a graph together
    models.py         a bundle that answers: scores, heat maps, nearest normal images
    normal_images.py  the nearest normal images to show beside an image
    app.py            routes from addresses to answers; page.html is the page
    server.py         listen, report readiness, stop on a signal

Scores are those of `lit-od score`: the same scorer computes them.
"""
