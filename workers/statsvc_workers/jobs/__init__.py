"""Jobs from lease to published version, and the runner that executes them."""
