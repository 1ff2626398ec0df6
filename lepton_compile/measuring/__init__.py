"""How fast a compiled model is: latency beside other engines, the time of every step, and what the machine could do."""
