"""Jobs: from the lease to the published version; and the runner that executes them."""
