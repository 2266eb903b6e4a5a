package store_test

import (
	"testing"

	"go.uber.org/goleak"

	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/fleet/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDirIsAStore(t *testing.T) {
	dir := t.TempDir()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, dir) })
}

func open(t *testing.T, dir string) *store.Dir {
	t.Helper()
	d, err := store.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
