package config

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

// placeState fills in where penstock keeps what must survive a restart.
func placeState(c *Config) {
	if c.StateDir == "" {
		c.StateDir = stateDir(c)
	}
	if c.Managed == "" && c.StateDir != "" {
		c.Managed = filepath.Join(c.StateDir, "decisions.yaml")
	}
	if w := c.Listen.WireGuard; w != nil {
		w.QuotaFile = filepath.Join(c.StateDir, "quota.json")
	}
	if e := c.Listen.Enrol; e != nil {
		e.Folder = filepath.Join(c.StateDir, "enrol")
	}
	if c.ACME != nil {
		c.ACME.Folder = filepath.Join(c.StateDir, "acme")
	}
	if c.Fleet != nil {
		c.Fleet.Folder = filepath.Join(c.StateDir, "fleet")
	}
	if h := c.History; h != nil && h.File == "" {
		h.File = filepath.Join(c.StateDir, "history.db")
	}
}

// stateDir is the default of state_dir.
func stateDir(c *Config) string {
	if t := c.Listen.TUN; t != nil && t.StateFile != "" {
		return filepath.Dir(t.StateFile)
	}
	if folders := os.Getenv("STATE_DIRECTORY"); folders != "" { // systemd
		first, _, _ := strings.Cut(folders, ":")
		return first
	}
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return filepath.Dir(DefaultStateFile())
		}
		base = filepath.Join(home, ".local", "state")
	}
	sum := sha256.Sum256([]byte(c.Path)) // other configurations may run in processes of the same user
	return filepath.Join(base, "penstock", hex.EncodeToString(sum[:4]))
}
