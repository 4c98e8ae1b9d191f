package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// check is one named function. needs lists features of the file `later`; quick marks the part that --quick runs.
type check struct {
	name  string
	needs string
	quick bool
	run   func(ctx context.Context) error
}

const checkTimeout = 60 * time.Second

// laterReasons maps the features that are switched off to the reason to print.
func laterReasons() (map[string]string, error) {
	off := strings.Fields(os.Getenv("LATER"))
	text, err := os.ReadFile(filepath.Join(os.Getenv("COMPAT"), "later"))
	if err != nil {
		return nil, err
	}
	reasons := make(map[string]string)
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		for _, feature := range off {
			if len(fields) > 1 && fields[0] == feature {
				reasons[feature] = strings.Join(fields[1:], " ")
			}
		}
	}
	return reasons, nil
}

// runChecks prints a line a check, in the format of lib/report.sh.
func runChecks(checks []check) error {
	suite := os.Getenv("SUITE")
	quick := os.Getenv("QUICK") == "1"
	only, err := regexp.Compile(os.Getenv("ONLY"))
	if err != nil {
		return err
	}
	later, err := laterReasons()
	if err != nil {
		return err
	}
	for _, c := range checks {
		full := suite + "/" + c.name
		if !only.MatchString(full) || (quick && !c.quick) {
			continue
		}
		if reason, off := later[c.needs]; off {
			fmt.Printf("skip %s: %s\n", full, reason)
			continue
		}
		started := time.Now()
		if err := bounded(c.run); err != nil {
			fmt.Printf("FAIL %s: %s\n", full, strings.Join(strings.Fields(err.Error()), " "))
		} else {
			fmt.Printf("ok %s (%d ms)\n", full, time.Since(started).Milliseconds())
		}
	}
	return nil
}

// bounded runs a check with a deadline, also one that does not look at its context.
func bounded(run func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				result <- fmt.Errorf("panic: %v", cause)
			}
		}()
		result <- run(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-time.After(checkTimeout + 5*time.Second):
		return fmt.Errorf("did not end within %s", checkTimeout)
	}
}
