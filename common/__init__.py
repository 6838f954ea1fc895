"""What services share.

Rooms:
    serving     everything that knows gRPC: the server, its interceptors, and how a service is run
    identity    who calls: the principal, and how a credential is resolved
    metering    what was used: units, accounts, prices, the outbox and its shipper
    upstream    HTTP to providers, and server-sent events
    dialects    wire formats of inference, one file for each
    providers   providers of models, one file for each that needs more than data
    routing     which deployment answers, and what is tried when it fails

Modules:
    relay       answers every inference request in the same way
    request     one call: who, which RPC, and its id
    reply       where an answer goes
    errors      the gateway's errors, and one table of their statuses
    settings    the settings that every service has, and how settings are read
    telemetry   spans and metrics
    logs        log lines
    background  supervised loops, and a process's health
    redaction   secrets are hidden from callers
    yaml_lines  YAML whose errors name the line

Nothing outside of serving, metering's outbox, shipper and event_proto, and identity.remote loads gRPC or protobuf.
"""
