"""The same map and merge over many machines, with Ray Data: `--engine ray`. Nothing here imports torch.

    PATHs ─► images ─► items ─► workers ─► answers, in order ─► rows of score, or the merged states of a fit
            find_remote  work_items  ray_pool              scoring.py                    engine.py

An item says where a run of consecutive images lies; workers read, prepare and score it. So image bytes never
pass through the driver, and the item of a worker that dies is simply done again by another.
"""
