"""What is generated for people who watch Skerry: Grafana dashboards and docs/metrics.md. `python -m dashboards` writes both."""
