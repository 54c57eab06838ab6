"""The inside of a handle: its transport, one request and its answer, the blocking engine and the one for asyncio."""
