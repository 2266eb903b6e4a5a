package hostnet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// originalLocked is the content of the resolver file as it would be without us; empty if that is not known. The owner of a
// link that we replaced goes on writing behind it: what stands there now is of the network that the host is in.
func (h *Host) originalLocked() ([]byte, error) {
	file, err := readResolvConf(h.cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	if earlier := h.journal.find(file.key()); earlier != nil {
		file = file.adopt(earlier).(*resolvConf)
	}
	if isOurs(file.Content) {
		return nil, nil // the journal was lost, and the original with it
	}
	if file.Link == "" {
		return file.Content, nil
	}
	target := file.Link
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(file.Path), target)
	}
	if now, err := os.ReadFile(target); err == nil && !isOurs(now) {
		return now, nil
	}
	return file.Content, nil
}

// OriginalSearchDomains returns the domains that completed short names before us, or would without us: those of the
// network that the host is in, where it says so.
func (h *Host) OriginalSearchDomains(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	content, err := h.originalLocked()
	if err != nil {
		return nil, err
	}
	if domains := searchDomains(content); len(domains) > 0 {
		return domains, nil
	}
	for _, path := range upstreamFiles { // a stub's file may leave them out
		if raw, err := os.ReadFile(path); err == nil {
			if domains := searchDomains(raw); len(domains) > 0 {
				return domains, nil
			}
		}
	}
	return nil, nil
}

// searchDomains returns those of a resolver file's last search or domain line: it is the one that counts.
func searchDomains(content []byte) []string {
	var domains []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && (fields[0] == "search" || fields[0] == "domain") {
			domains = fields[1:]
		}
	}
	return domains
}
