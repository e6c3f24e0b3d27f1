from braidlm.data.seeding import EVAL, TRAIN, generator


def test_streams_are_named_by_all_their_keys():
    names = [(0, TRAIN, "a", 0), (0, EVAL, "a", 0), (1, TRAIN, "a", 0), (0, TRAIN, "b", 0)]
    names += [(0, TRAIN, "a", 1), (0, TRAIN, "a"), (0, TRAIN, "a", 0, 0)]
    drawn = {tuple(generator(*name).integers(2**62, size=4).tolist()) for name in names}
    assert len(drawn) == len(names)


def test_the_numbers_are_the_same_on_every_machine():
    # Sealed: a change here changes the data of every run that is to be repeated.
    assert generator(7, TRAIN, "text", 3).integers(1000, size=6).tolist() == SEALED


SEALED = [342, 189, 441, 69, 561, 547]
