"""How the schema came to be: expand first, contract one release later. Run by app.store.db.upgrade."""
