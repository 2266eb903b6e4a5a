package lookup

import (
	"strconv"
	"testing"
)

func TestFind(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 1000} {
		list := make([]string, n)
		for i := range list {
			list[i] = strconv.Itoa(i)
		}
		x := New(n, func(i int) string { return list[i] })
		for want, key := range list {
			if got, ok := x.Find(key); !ok || got != want {
				t.Fatalf("%d entries, key %s: got %d, %v; want %d", n, key, got, ok, want)
			}
		}
		for _, key := range []string{"", "-1", strconv.Itoa(n), "x"} {
			if got, ok := x.Find(key); ok {
				t.Fatalf("%d entries, key %q: got %d, want none", n, key, got)
			}
		}
	}
	var none *Table[string]
	if _, ok := none.Find("x"); ok {
		t.Error("a table of nothing has found something")
	}
}

func TestOfTwoWithOneKeyTheLastIsFound(t *testing.T) {
	list := []string{"a", "b", "a"}
	x := New(len(list), func(i int) string { return list[i] })
	if got, ok := x.Find("a"); !ok || got != 2 {
		t.Errorf("got %d, %v; want 2", got, ok)
	}
}
