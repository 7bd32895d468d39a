"""Why a network answers as it does: pure functions from a network and examples to arrays, and their figures.

::

    examples ─► lens ─┬─► attribution   band x date: gradients, integrated gradients
                      ├─► attention     class x date
                      ├─► hiding        occlusion of dates and bands; in season
                      ├─► permutation   bands and dates from other examples
                      ├─► activations   what each layer answers to
                      ├─► hidden        features by cut-off month and by moment of the training
                      └─► confidence    how sure, how often right
                                  each ─► sheets (figure, sentence, table) ─► report (PNG, CSV, index.html)
"""
