"""The parts of ``benchmarks.memory_step``, each of which answers some of its questions."""
