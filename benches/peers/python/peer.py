"""Counts calls and system errors per tenant and month: confluent-kafka, orjson.

    peer.py BROKERS TOPIC EVENTS
"""
import os
import sys
from datetime import datetime, timedelta, timezone

import orjson
from confluent_kafka import Consumer

ZONE = timezone(timedelta(hours=8))


def failed(call):
    """By its flag, or without one by its code."""
    flag = call.get("system_error")
    if flag is not None:
        return flag
    code = call.get("code")
    return isinstance(code, str) and code.split(".", 1)[0] in ("InternalError", "ServiceUnavailable")


def main():
    brokers, topic, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"peer-python-{os.getpid()}",
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 5,
        }
    )
    consumer.subscribe([topic])
    counts = {}
    read = 0
    while read < events:
        for message in consumer.consume(1000, 0.1):
            if message.error():
                sys.exit(str(message.error()))
            read += 1
            call = orjson.loads(message.value())
            month = datetime.fromisoformat(call["timestamp"]).astimezone(ZONE).strftime("%Y-%m")
            count = counts.setdefault((call["tenant"], month), [0, 0])
            count[0] += 1
            if failed(call):
                count[1] += 1
    consumer.close()
    for (tenant, month), (calls, failures) in counts.items():
        print(tenant, month, calls, failures)


main()
