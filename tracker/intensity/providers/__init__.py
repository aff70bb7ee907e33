"""Where intensity comes from over time: the user's own file, grid operators, data services, plug-ins of others."""
