package history

import "time"

const (
	// pace is how many times faster than time itself the age of records grows while the clock is ahead of it.
	pace = 24
	// trusted is after how much time of running without a jump the clock is believed.
	trusted = 24 * time.Hour
	// jump is a difference between the clock and the time that has passed that is none of rounding or of slewing.
	jump = time.Minute
	// slack is how far ahead a clock is believed at once.
	slack = time.Hour
)

// age tells by which time records are old. The clock of the machine may be wrong: if it were a year ahead for a minute, all records
// would be a year old, and gone for good when it is right again. So this time follows the clock, but not faster than 24 hours in an hour,
// until the clock has run without a jump for a day. After a holiday records stay a little longer than they should. It never goes back
// itself, but neither is it ever ahead of the clock, so a clock that is behind deletes nothing.
type age struct {
	seen   time.Time // the latest time that was believed
	wall   time.Time // when now was last called
	ticks  time.Duration
	steady time.Duration // for how long there was no jump
}

// now returns the time by which records are old. wall is what the clock says, and ticks the time that has passed since some moment.
func (a *age) now(wall time.Time, ticks time.Duration) time.Time {
	wall = wall.Round(0)
	passed := ticks - a.ticks
	if drift := wall.Sub(a.wall) - passed; drift.Abs() > jump {
		a.steady = 0
	} else {
		a.steady += passed
	}
	a.wall, a.ticks = wall, ticks
	ahead := wall.Sub(a.seen)
	switch {
	case ahead <= 0:
		return wall
	case a.seen.IsZero(), ahead <= max(slack, passed), a.steady >= trusted:
		a.seen = wall
	default:
		a.seen = a.seen.Add(min(ahead, pace*passed))
	}
	return a.seen
}
