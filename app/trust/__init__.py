"""May this image run, and which digest is that? The registry client, the signature forms, the verdict."""
