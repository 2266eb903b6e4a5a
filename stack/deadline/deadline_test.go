package deadline

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Deadline
		waiting := d.Passed()
		d.Set(time.Now().Add(time.Hour))
		d.Set(time.Now().Add(time.Second))
		start := time.Now()
		<-waiting
		if got := time.Since(start); got != time.Second {
			t.Errorf("who waited met the deadline after %v, want the one set last, 1 s", got)
		}
		if !isClosed(d.Passed()) {
			t.Error("a deadline that has passed has not")
		}
		d.Set(time.Time{})
		if isClosed(d.Passed()) {
			t.Error("a deadline that was taken away has passed")
		}
		d.Set(time.Now().Add(-time.Second))
		if !isClosed(d.Passed()) {
			t.Error("a deadline in the past has not passed")
		}
	})
}

func TestADeadlineThatMovesDoesNotPassAtItsOldTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Deadline
		d.Set(time.Now().Add(time.Second))
		passed := d.Passed()
		time.Sleep(time.Second - time.Nanosecond)
		d.Set(time.Now().Add(time.Minute))
		time.Sleep(2 * time.Second)
		if isClosed(passed) {
			t.Error("the deadline passed at its old time")
		}
		d.Set(time.Time{})
	})
}
