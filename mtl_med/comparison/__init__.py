"""Methods against each other: the same data, batches and budget, several seeds, tables with intervals."""
