"""Memory and operations counted on the meta device, where nothing is computed: the meter, and plans of generations."""
