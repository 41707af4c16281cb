"""The search for good hyper-parameters: what to try, what has been tried, and how long it takes."""
