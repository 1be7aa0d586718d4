"""Reports of runs: tables, figures, one page. Reads run folders, without torch."""
