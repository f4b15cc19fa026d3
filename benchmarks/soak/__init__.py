"""The real program for half an hour under load, while everything around it breaks: `python -m benchmarks.soak`.

Theory of operation: callers ask questions to which exactly one answer is right (`questions`), over every route, from a program whose
providers are a stand-in. Meanwhile providers fail, people throw switches, workers and the state server are killed, the disk is full,
and the clock is set (`events`). Everything that a caller was told is kept (`ledger`); at the end it is compared with the usage log
(`logs`), and what the workers took of the machine with what they took before (`watch`). The verdicts (`verdicts`) say yes or no;
none of them is about speed, so that a busy machine changes none.

What may not live here: anything that the program could share with its judge. Answers are compared letter for letter with what this
package itself computes, and streams are read by a parser of its own.
"""
