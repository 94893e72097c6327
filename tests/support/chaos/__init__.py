"""Faults in a running installation while clients read and write, and checks that nothing was lost.

`make chaos` runs it for a long time. The steps of a run:

    forms            start an installation: a cluster, or a single machine with SQLite
    changing_folder  the label maps that jobs count, and what each file contained at which time
    readers, writers the clients
    record           what the clients saw
    faults, schedule what is broken, when and for how long; the same for the same seed
    checks           compares what clients saw and what is stored with np.bincount of the files
    tally            the result as text
"""
