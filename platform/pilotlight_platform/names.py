"""Names of the Ray Serve application and its deployments."""

APP = "pilotlight"
GATEWAY = "Gateway"
SCHEDULER = "Scheduler"
WORKER = "Worker"
