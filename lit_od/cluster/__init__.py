"""Fit and score on many machines with Ray Data: `--engine ray`.

    PATHs ─► images ─► items ─► workers ─► answers, in order ─► rows of score, or the merged states of a fit
            find_remote  work_items  ray_pool              scoring.py                    engine.py

An item names a run of consecutive images; workers read, prepare and score them. So image bytes never pass through
the driver, and another worker does the item of one that dies again.
"""
