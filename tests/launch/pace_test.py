from launch.pace import Pace
from tests import testing


def test_time_left_by_the_mean_of_what_is_done():
    now = 100.0
    pace = Pace(40, clock=lambda: now)
    said = []
    for _ in range(40):
        now += 60.0
        said.append(pace.done())
    assert said[0] == "1 of 40; about 39 min left"
    assert said[37:] == ["38 of 40; about 2 min left", "39 of 40; about 60 s left", "40 of 40"]


def test_a_slow_start_is_made_up_for():
    now = 0.0
    pace = Pace(5, clock=lambda: now)
    now = 7200.0  # compiling, say
    assert pace.done() == "1 of 5; about 8.0 h left"
    now = 7300.0
    assert pace.done() == "2 of 5; about 3.0 h left"


if __name__ == "__main__":
    testing.main()
