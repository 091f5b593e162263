"""Results to look at: frames become plotly figures, figures become one page. Reads `ablate.results` only."""
