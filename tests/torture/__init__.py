"""Random faults over real trainings: what happens (plans), to whom (program), and what must hold (referee)."""
