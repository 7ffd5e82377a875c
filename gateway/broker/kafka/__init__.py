"""The broker contract on Kafka."""
