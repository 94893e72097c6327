"""A sample and where its bytes come from: file, container member or object."""
