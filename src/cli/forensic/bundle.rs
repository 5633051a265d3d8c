//! `elastictop bundle`: one file for whoever has to find out what went wrong.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{block_on, out, reach::Target},
    error::{Error, Result},
    supervisor::{bundle, clock},
};

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Id, name or start of the id; the newest running job if left out
    job: Option<String>,
    /// The file to write [default: JOB-TIME.tar.gz here]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `elastictop bundle`.
pub fn bundle(args: &BundleArgs) -> Result<u8> {
    let target = Target::find(args.job.as_deref(), None)?;
    let Target::Own { roots, manifest } = &target else {
        return Err(Error::job("elastictop did not start that job, and has nothing to bundle")
            .hint("elastictop stacks --pid AGENT, and elastictop diagnose FILES on dumps of its ranks"));
    };
    let state = block_on(target.greet(false))?.state;
    let now = clock::wall();
    let name = || format!("{}-{}.tar.gz", manifest.id, now.to_string().replace(':', ""));
    let output = args.output.clone().unwrap_or_else(|| name().into());
    out::may_replace(&output)?;
    bundle::check_secrets(&roots.job(&manifest.id))?;
    let parts = bundle::gather(roots, manifest, &state, now);
    bundle::write(&output, &manifest.id.0, &parts)
        .map_err(|error| Error::io("cannot write", &output, &error).hint("name another file with -o"))?;
    out::say(output.display())?;
    for part in &parts {
        out::say(format_args!("  {:<28} {}", part.name, part.what))?;
    }
    out::say("Names and values that look like secrets are taken out; look into it before you hand it on.")?;
    Ok(0)
}
