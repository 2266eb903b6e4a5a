package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"penstock/e2e/netlab"
)

// browser runs Chromium on a host, and returns a context for a tab of it.
func browser(t *testing.T, h *netlab.Host) context.Context {
	t.Helper()
	return openTab(t, program(t, "chromium"), fromHere(h.Nsenter()))
}

// fromHere returns a command line of nsenter as one for this process, which is in the lab's user namespace already if the lab has one.
func fromHere(nsenter []string) []string {
	return slices.DeleteFunc(nsenter, func(arg string) bool { return arg == "--user" || arg == "--preserve-credentials" })
}

// openTab runs Chromium, by way of the program before it if there is one, and returns a context for a tab of it.
func openTab(t *testing.T, chromium string, before []string) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("no-proxy-server", true),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			if len(before) > 0 {
				cmd.Args = slices.Concat(before, []string{cmd.Path}, cmd.Args[1:])
				cmd.Path = program(t, before[0])
			}
		}))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it does not run as root
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	allocator, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	return tab
}

// visit opens a page, clicks on something in it if there is a selector, and waits until the text of where that leads holds want.
func visit(t *testing.T, tab context.Context, url, click, want string) {
	t.Helper()
	if _, err := chromedp.Run(tab, chromedp.Navigate(url)); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	if click != "" {
		if _, err := chromedp.Run(tab, chromedp.Click(click)); err != nil {
			t.Fatalf("%s: click on %s: %v", url, click, err)
		}
	}
	eventually(t, url+" shows "+want, func() error {
		text, err := chromedp.Run(tab, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
		if err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("it shows %q", text)
		}
		return err
	})
}
