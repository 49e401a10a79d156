"""The engine: `core` computes, `process` runs it in a child, `client` is its door in the stub.

    Triton stub                                   engine process
    client ──▶ supervisor ──Submit, Stop──▶ process ──▶ core: schedule → run → commit
       ▲            │
       └── sender ◀─┴──Outputs, Heartbeat── process

Nothing is imported here: the child must set itself up before it loads a tensor library.
"""
