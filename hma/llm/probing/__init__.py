"""Measures what a route's model and server can do: the work behind `hma probe`.

- `purse`: the probe's own budget and deadline; every call is paid from it.
- `calling`: makes calls within it, and remembers how their streams looked.
- `server`: what the server can do: count, constrain, think, call tools.
- `teamwork`: whether the model can plan and reduce.
- `throughput`: tokens per second.
- `answering`: asks questions; `quality`: how well they are answered, alone and in batches,
  and what the signals of a good answer are worth.
- `run`: all of it in order; `notebook` and `findings`: what came of it, as a profile.
- `routes_file`: the profile in a TOML file.

The questions are data (`questions.json`), written for this purpose.
"""
