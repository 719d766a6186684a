"""What strangers send: images, addresses and camera paths, checked before anything else sees them."""
