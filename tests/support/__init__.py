"""Helpers of the tests. Each module has one purpose:

Label maps and tables
    label_maps             folders of valid label maps, and their histograms according to NumPy
    label_datasets         Torch datasets of (image, label) pairs
    damage                 label map files byte by byte, valid and damaged
    png_files              PNG files of any color type, bit depth and row filter
    expected               published counts, and counts of files according to Pillow
    small_tables           tables in memory, among them published statistics

Catalog and version store
    catalogs               datasets and jobs in a catalog, without label maps
    publishing             versions published from arrays, without a scan
    retained_versions      datasets with several versions, for tests of gc
    scans                  scans in this process through the real catalog, version store and cluster
    stores                 empty version stores, and direct access to their files
    postgres               a PostgreSQL server, and empty catalogs on it
    object_store           a local S3 server

Processes
    command_line           commands of statsvc in this process, which is much faster
    commands               commands of statsvc in subprocesses
    terminal               commands of statsvc on a pseudo-terminal
    servers                API servers in subprocesses, and free ports
    cluster                a distributed installation: every role in a separate process
    chaos                  a package: breaks a running installation and checks that nothing is lost
    torchrun, ranks        scripts that run on several ranks
    concurrent_trainers    script: trainers that start together

HTTP
    contract               checks that responses conform to the OpenAPI document

Faults
    http_server            an HTTP server with chosen responses
    outages                a misbehaving server in front of a real API server
    object_faults          a misbehaving proxy in front of an S3 server
    permissions            permission and file size limits for this process
    moved_clock            a clock of other processes that tests can set
    silent_proxy           a proxy whose connections can go silent
    waiting                waiting for events with timeouts that suit a busy machine

Training
    loss_inputs            random inputs of the losses
    reference_losses       slow, independent implementation of the losses
    reference_samplers     independent implementations of the samplers
    small_segmentation     weights and batches of four classes
    lightning_runs         a small training run with Lightning
    transformers_runs      a small training run with Transformers
"""
