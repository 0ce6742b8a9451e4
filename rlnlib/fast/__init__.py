"""What is there for speed: each part has a plain twin in the core, and is tested equal to it."""
