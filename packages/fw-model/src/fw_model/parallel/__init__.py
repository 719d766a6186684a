"""One sample on several processes: tokens divided over them (Ulysses), guidance branches divided over two groups."""
