"""What strangers send: pictures, addresses and camera paths, checked before anything else sees them."""
