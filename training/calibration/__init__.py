"""How far a network's probabilities may be believed, and how to mend them.

::

    logits of the validation part ─► scaling (temperature, vector) ─► bundle
                                  └► reliability (bins, ECE) ─► plot, card
    features of the training part ─► familiarity ─► layer `unfamiliar` of a map
"""
