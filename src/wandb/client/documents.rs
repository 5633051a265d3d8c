//! The GraphQL documents that are sent. Tests hold them against the schema.

/// A document and the name of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document {
    /// `operationName` of the request.
    pub name: &'static str,
    /// The text.
    pub text: &'static str,
}

/// Who the key belongs to.
pub const VIEWER: Document =
    Document { name: "Viewer", text: "query Viewer { viewer { id entity username } }" };

/// What the server can do.
pub const SERVER_FEATURES: Document = Document {
    name: "ServerFeatures",
    text: "query ServerFeatures { serverInfo { features { name isEnabled } } }",
};

/// What the server has of a run. Variables: `project`, `entity`, `name`.
pub const RUN_RESUME_STATUS: Document = Document {
    name: "RunResumeStatus",
    text: "query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) {
    id
    bucket(name: $name, missingOk: true) {
      id
      config
      tags
      notes
      historyLineCount
      eventsLineCount
      logLineCount
      historyTail
      eventsTail
      summaryMetrics
      wandbConfig(keys: [\"t\"])
    }
  }
}",
};

/// Makes a run, or changes it: what is null stays. Gives what the server calls it.
pub const UPSERT_BUCKET: Document = Document {
    name: "UpsertBucket",
    text: "mutation UpsertBucket(
  $id: String, $name: String, $project: String, $entity: String, $groupName: String, $displayName: String,
  $notes: String, $commit: String, $config: JSONString, $host: String, $program: String, $repo: String,
  $jobType: String, $sweep: String, $tags: [String!]
) {
  upsertBucket(input: {
    id: $id, name: $name, modelName: $project, entityName: $entity, groupName: $groupName,
    displayName: $displayName, notes: $notes, commit: $commit, config: $config, host: $host,
    jobProgram: $program, jobRepo: $repo, jobType: $jobType, sweep: $sweep, tags: $tags
  }) {
    inserted
    bucket {
      id
      name
      displayName
      historyLineCount
      project { name entity { name } }
    }
  }
}",
};

/// Addresses to put files to. Variables: `entity`, `project`, `run`, `files`.
pub const CREATE_RUN_FILES: Document = Document {
    name: "CreateRunFiles",
    text: "mutation CreateRunFiles($entity: String!, $project: String!, $run: String!, $files: [String!]!) {
  createRunFiles(input: {entityName: $entity, projectName: $project, runName: $run, files: $files}) {
    runID
    uploadHeaders
    files { name uploadUrl }
  }
}",
};

/// All of them.
pub const ALL: [Document; 5] = [VIEWER, SERVER_FEATURES, RUN_RESUME_STATUS, UPSERT_BUCKET, CREATE_RUN_FILES];
