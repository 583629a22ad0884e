"""Pages over the cells: who shares them, where idle ones lie, how they move."""
