package lists

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"penstock/policy/blocklist"
)

// Bounds of one fetch.
const (
	maxFetches   = 3                // at once
	fetchLimit   = 15 * time.Minute // for all of a list
	stallLimit   = 30 * time.Second // without a byte
	progressTime = 10 * time.Second // between two lines of the log
	maxRedirects = 5
)

// fetch asks for a subscription's newest version, and puts it on the shelf if it is new and plausible. If it fails, the last
// good version stays as it is.
func (l *Lists) fetch(ctx context.Context, category string, s Source) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	last := l.shelf.info(s.URL)
	res, err := l.request(ctx, s, last)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	now := l.Clock()
	switch {
	case res.StatusCode == http.StatusNotModified && last.URL != "":
		last.Checked = now
		return false, l.shelf.note(last)
	case res.StatusCode != http.StatusOK:
		return false, fmt.Errorf("the server answered %s", res.Status)
	}
	f, err := os.CreateTemp(l.shelf.dir, temporary)
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	defer f.Close()
	digest, err := l.receive(f, res.Body, s.Name(), cancel)
	if err != nil {
		return false, err
	}
	next := copyInfo{
		URL: s.URL, ETag: res.Header.Get("ETag"), LastModified: res.Header.Get("Last-Modified"), Digest: digest,
		Entries: last.Entries, Fetched: now, Checked: now,
	}
	if last.Digest == digest {
		next.Fetched = last.Fetched
		return false, l.shelf.note(next)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	o := l.listOf(category, s).Options
	o.Previous = last.Entries
	report, err := blocklist.Check(f, o)
	if errors.Is(err, blocklist.ErrHalved) {
		err = fmt.Errorf("%w: rm %s", err, l.shelf.path(s.URL))
	}
	if err != nil {
		return false, err
	}
	next.Entries = report.Entries()
	if out := leftOut(report, false); out != "" {
		l.Log.Warn("parts of a list are left out", "list", s.Name(), "category", category, "left_out", out)
	}
	return true, l.shelf.put(f, next)
}

// request sends the conditional GET. Each has a client of its own, because subscriptions are hours apart.
func (l *Lists) request(ctx context.Context, s Source, last copyInfo) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "penstock")
	if last.ETag != "" {
		req.Header.Set("If-None-Match", last.ETag)
	}
	if last.LastModified != "" {
		req.Header.Set("If-Modified-Since", last.LastModified)
	}
	client := http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return l.Dial(ctx, s.Via, network, address)
			},
			ForceAttemptHTTP2:     true,
			DisableKeepAlives:     true,
			TLSHandshakeTimeout:   stallLimit,
			ResponseHeaderTimeout: stallLimit,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return errors.New("too many redirects")
			case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
				return errors.New("redirected from https to http")
			}
			return nil
		},
	}
	return client.Do(req)
}

// receive writes the body to f and returns its digest. It calls cancel if the body stalls.
func (l *Lists) receive(f *os.File, body io.Reader, list string, cancel context.CancelFunc) (digest string, err error) {
	stalled := time.AfterFunc(stallLimit, cancel)
	defer stalled.Stop()
	var size int64
	reported := l.Clock()
	h := sha256.New()
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		stalled.Reset(stallLimit)
		if size += int64(n); size > blocklist.DefaultMaxBytes {
			return "", &blocklist.ListError{List: list, Reason: blocklist.ErrTooLarge, Text: fmt.Sprintf("more than %d bytes", int64(blocklist.DefaultMaxBytes))}
		}
		h.Write(buf[:n])
		if _, err := f.Write(buf[:n]); err != nil {
			return "", err
		}
		if now := l.Clock(); now.Sub(reported) >= progressTime {
			reported = now
			l.Log.Info("a list is being fetched", "list", list, "bytes", size)
		}
		switch {
		case err == io.EOF:
			return hex.EncodeToString(h.Sum(nil)), nil
		case err != nil:
			return "", fmt.Errorf("after %d bytes: %w", size, err)
		}
	}
}
