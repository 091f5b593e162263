"""The live dashboard: a study's record as pages that keep themselves up to date. The only room that knows Dash.

`record` reads, `overview`, `comparison`, `listing` and `trial` make pages of what was read, `app` puts them on the screen, `asking` guards
what may be asked of the study, and `serve` is the door.
"""
