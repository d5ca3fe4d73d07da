"""Tests against a Kafka: a real one, or librdkafka's mock cluster where that cannot be run."""
