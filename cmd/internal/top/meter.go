package top

import (
	"math"
	"strings"
	"time"

	"penstock/cmd/internal/control"
)

// span is how far back the sparklines go.
const span = 2 * time.Minute

// count is what something had carried at a time.
type count struct {
	rx, tx uint64
	at     time.Time
}

// meter turns what things have carried into rates. It knows the last two looks.
type meter struct {
	now, before map[string]count
	at          time.Time // of the look before
}

// next begins another look. A look that follows sooner than in least takes the place of the one before: bytes come in bursts.
func (m *meter) next(at time.Time, least time.Duration) {
	if at.Sub(m.at) >= least {
		m.before, m.at = m.now, at
	}
	m.now = make(map[string]count)
}

func (m *meter) see(key string, c count) { m.now[key] = c }

// rate returns bytes per second, or false before the second look.
func (m *meter) rate(key string) (rx, tx float64, ok bool) {
	a, had := m.before[key]
	b, has := m.now[key]
	seconds := b.at.Sub(a.at).Seconds()
	if !had || !has || seconds <= 0 || b.rx < a.rx || b.tx < a.tx {
		return 0, 0, false
	}
	return float64(b.rx-a.rx) / seconds, float64(b.tx-a.tx) / seconds, true
}

// point is how much of something there had been until a time.
type point struct {
	at  time.Time
	sum float64
}

// series is the last points of something that only grows.
type series []point

// add takes another point. If the sum is lower than before, penstock has started anew, and so does the series.
func (s *series) add(p point) {
	if n := len(*s); n > 0 {
		last := (*s)[n-1]
		switch {
		case p.sum < last.sum:
			*s = nil
		case !p.at.After(last.at):
			return
		}
	}
	*s = append(*s, p)
	for len(*s) > 2 && p.at.Sub((*s)[1].at) > span {
		*s = (*s)[1:]
	}
}

// until is the sum at a time, on a straight line between two points, or NaN before the first.
func (s series) until(at time.Time) float64 {
	for i := len(s) - 1; i >= 0; i-- {
		a := s[i]
		if at.Before(a.at) {
			continue
		}
		if i == len(s)-1 {
			return a.sum
		}
		b := s[i+1]
		return a.sum + (b.sum-a.sum)*float64(at.Sub(a.at))/float64(b.at.Sub(a.at))
	}
	return math.NaN()
}

// grown is by how much the sum has grown for a time, or since the first point.
func (s series) grown(d time.Duration) float64 {
	if len(s) == 0 {
		return 0
	}
	last := s[len(s)-1]
	before := s.until(last.at.Add(-d))
	if math.IsNaN(before) {
		before = s[0].sum
	}
	return last.sum - before
}

// rates returns the rates in so many equal parts of the last two minutes, per second, NaN where nothing is known.
func (s series) rates(parts int) []float64 {
	list := make([]float64, parts)
	if len(s) == 0 {
		for i := range list {
			list[i] = math.NaN()
		}
		return list
	}
	end, part := s[len(s)-1].at, span/time.Duration(parts)
	for i := range list {
		from := end.Add(-part * time.Duration(parts-i))
		list[i] = (s.until(from.Add(part)) - s.until(from)) / part.Seconds()
	}
	return list
}

// spark draws rates, the highest as high as a line is.
func spark(list []float64, ascii bool) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	if ascii {
		levels = []rune("_.:-=+*#")
	}
	top := 0.0
	for _, v := range list {
		if v > top { // false for NaN
			top = v
		}
	}
	var b strings.Builder
	for _, v := range list {
		switch {
		case math.IsNaN(v):
			b.WriteByte(' ')
		case v <= 0 || top == 0:
			b.WriteRune(levels[0])
		default:
			b.WriteRune(levels[1+int(math.Round(v/top*float64(len(levels)-2)))])
		}
	}
	return b.String()
}

// carried returns what has been carried, from the daemon's own samples, or else from what its transports have.
func (s *snapshot) carried() []control.Sample {
	if len(s.samples) > 0 {
		return s.samples
	}
	now := control.Sample{Time: s.at, Denied: s.status.Flows.Denied}
	for _, t := range s.status.Transports {
		if t.Kind != "failover" { // its members are in the list, too
			now.RxBytes += t.RxBytes
			now.TxBytes += t.TxBytes
		}
	}
	return []control.Sample{now}
}
