"""A campaign of whole services on a virtual clock, in worlds that fail: one seed fixes everything. See docs/reliability.md."""
