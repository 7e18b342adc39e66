"""The reference images of the runners: what their Dockerfiles may say, and what comes out when an engine builds them."""
