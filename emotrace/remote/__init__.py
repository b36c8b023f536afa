"""Models hosted by NDIF: how blocks are shipped, jobs kept, results fetched, and what the server's errors mean."""
