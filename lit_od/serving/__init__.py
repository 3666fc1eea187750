"""A local page and an HTTP interface for bundles: `lit-od serve`.

Modules in the order of a request's way:

    connection.py     bytes from the socket; a client that is too slow is answered 408, one too many 503
    gate.py           hosts and origins that may ask; headers of every answer; refusals that reach slow senders
    access.py         the token that requests must carry, where there is one
    intake.py         the body and the answer, within limits of size, time and memory
    protocol.py       the Open Inference Protocol: a request to images and wanted outputs, results to an answer
    tensors.py        the protocol's tensors, in JSON and in binary form
    upload.py         /score: a file or a form of files to images, results to rows
    sent_images.py    the images of a request, which take turns at memory while they are decoded
    work_queue.py     a bounded queue before one worker a core; small requests go through a graph together
    shelf.py          the models that answer; none while they are loaded
    models.py         a bundle that answers: scores, heat maps, nearest normal images
    map_answers.py    its answers that hold maps
    normal_images.py  the nearest normal images to show beside an image
    app.py            routes from addresses to answers; page.html is the page
    openapi.py        the addresses described, for programs and, as docs.html, for people; openapi.yaml is the source
    server.py         listen, load, report readiness, stop on a signal

Beside it:

    reload.py         loads bundles, and again where they are replaced on disk
    metrics.py        counts in Prometheus' text form
    model_watch.py    histograms and the drift alarm over a model's scores
    log.py            lines of the log, as text or JSON

Scores are those of `lit-od score`: the same scorer computes them.
"""
