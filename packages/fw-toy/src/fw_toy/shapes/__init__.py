"""Triangle meshes with materials, from single solids to furniture, plants and buildings."""
